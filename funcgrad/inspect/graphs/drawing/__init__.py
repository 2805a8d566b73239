"""Pictures of a graph: parted into views, laid out, drawn as SVG."""
