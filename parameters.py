"""Schema, planes and canonical safetensors."""
