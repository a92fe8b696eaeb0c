"""A study's results as tables, figures and pictures, for tools/analysis_tools/report.py. Needs matplotlib."""
