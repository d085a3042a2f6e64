"""Configuration: the schema composed of every part's own dataclass, the YAML differences, and what is built from them."""
