"""Label tables, random-access sources and the grain pipelines over them."""
