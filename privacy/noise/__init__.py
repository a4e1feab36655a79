"""Noise from a cipher: integers whose distribution is known to 2^-100."""
