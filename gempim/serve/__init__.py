"""Serving: continuous batching of many requests on xPUs, alone or with PIM in their memory."""
