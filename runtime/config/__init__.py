"""Configuration: pydantic models and YAML files."""
