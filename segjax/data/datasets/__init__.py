"""Data sets, one file for each: its label table, its layout of files, its function."""
