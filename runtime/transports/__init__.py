"""How deliveries reach sites."""
