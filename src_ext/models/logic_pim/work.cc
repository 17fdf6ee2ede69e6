// SPDX-License-Identifier: BSD-3-Clause
#include "models/logic_pim/work.hh"

namespace gempim::logic_pim {

void XpuStream::pop() {
    --left_;
    if (++group_ < groups_) {
        return;
    }
    group_ = 0;
    if (++column_ < columns_) {
        return;
    }
    column_ = 0;
    if ((bank_ += groups_) < banks_[space_].size()) {
        return;
    }
    bank_ = 0;
    if (++space_ < banks_.size()) {
        return;
    }
    space_ = 0;
    row_ = (row_ + 1) % rows_;
}

} // namespace gempim::logic_pim
