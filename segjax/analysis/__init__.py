"""From data sets and finished runs to figures, tables and reports: files out."""
