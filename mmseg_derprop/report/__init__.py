"""A study's results as tables, charts and pictures, for tools/analysis_tools/report.py.

Nothing else imports this: it needs matplotlib. Jinja2 comes with torch.
"""
