"""What is computed: aggregation rules. Pure: arrays in, arrays out."""
