"""DP-SGD: per-record gradients, clipped and rounded before they are summed."""
