"""Systems that reuse the parts above: sparse matrix engines, SuperNet serving. No domain imports another."""
