"""Studies: a matrix of runs from one file, each in a process of its own, one table of results and a page.

Needs the extra ``study``: pandas, pydantic, jinja2, rich, matplotlib and pyyaml.
"""
