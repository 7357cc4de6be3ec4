"""The presets, as YAML files: paper, small, tiny."""
