#include "models/common/info.hh"
