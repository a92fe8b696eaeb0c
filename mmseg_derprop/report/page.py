"""The page: tables, captions, and where each number comes from."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import markupsafe

from .figures import INTERVALS, Picture
from .runs import METRIC, Row, Run, Setting, Statistic, over_seeds, paired_difference

MINUS = '\N{MINUS SIGN}'


@dataclass
class Section:
    """What the page shows of a setting."""

    setting: Setting
    pictures: list[Picture] = field(default_factory=list)


def results(setting: Setting) -> list[dict]:
    """Lines of the table of results: a line for each row and network."""
    lines = []
    for row, network in _columns(setting):
        line: dict = dict(label=row.label, network=network, is_baseline=row is setting.baseline)
        of_baseline = setting.baseline_network(network)
        for name, values_of in dict(last=Row.last, best=Row.best).items():
            values = values_of(row, network)
            line[name] = over_seeds(values.values())
            line[f'{name}_difference'] = None
            if setting.baseline is not None and of_baseline is not None and row is not setting.baseline:
                line[f'{name}_difference'] = paired_difference(values, values_of(setting.baseline, of_baseline))
        lines.append(line)
    return lines


def results_by_class(setting: Setting, network: str) -> tuple[list[Row], list[dict]]:
    """Columns and lines of a table of classes: a column for each row that has the network, or has a single one.

    Args:
        setting (Setting): Of the table.
        network (str): Of the table.

    Returns:
        tuple[list[Row], list[dict]]: The rows that are columns, and for each class its name and its cells.
    """
    columns = [
        (row, own)
        for row, own in _columns(setting)
        if own in (network, '') and any(row.of_class(own, name) for name in setting.classes)
    ]
    lines = []
    for name in setting.classes if columns else []:
        cells = []
        for row, own in columns:
            values = row.of_class(own, name)
            of_baseline, difference = setting.baseline_network(own), None
            if setting.baseline is not None and of_baseline is not None and row is not setting.baseline:
                difference = paired_difference(values, setting.baseline.of_class(of_baseline, name))
            cells.append(dict(value=over_seeds(values.values()), difference=difference))
        lines.append(dict(name=name, cells=cells))
    return [row for row, _ in columns], lines


def overview(settings: list[Setting]) -> list[dict]:
    """Lines of the table over all settings: last mIoU of each label and network in each setting."""
    names = dict.fromkeys((row.label, network) for setting in settings for row, network in _columns(setting))
    rows = [{row.label: row for row in setting.rows} for setting in settings]

    def cell(labelled: dict[str, Row], label: str, network: str) -> Statistic | None:
        return over_seeds(labelled[label].last(network).values()) if label in labelled else None

    return [
        dict(label=label, network=network, cells=[cell(labelled, label, network) for labelled in rows])
        for label, network in names
    ]


def _columns(setting: Setting) -> list[tuple[Row, str]]:
    return [(row, network) for row in setting.rows if row.finished for network in row.networks]


def provenance(sections: list[Section]) -> dict:
    """Runs, the machines and versions that they ran on, numbered, and a command of each row."""
    runs = [run for section in sections for run in section.setting.runs]
    places = list(dict.fromkeys(_place(run) for run in runs))
    rows = [row for section in sections for row in section.setting.rows]
    firsts = [row.runs[min(row.runs)] for row in rows]
    return dict(
        runs=[dict(run=run, raw=run.raw, place=places.index(_place(run)) + 1) for run in runs],
        places=places,
        commands=[run.raw['command'] for run in firsts if isinstance(run.raw.get('command'), str)],
    )


def _place(run: Run) -> str:
    """Versions and machine in one line."""
    parts = []
    for key in ('machine', 'versions'):
        value = run.raw.get(key)
        parts += [f'{k} {v}' for k, v in value.items() if v] if isinstance(value, dict) else []
    return ', '.join(parts) or 'not recorded'


def breakable(name: str) -> markupsafe.Markup:
    """A name that may be broken after _ and +, as HTML."""
    return markupsafe.Markup(re.sub('([_+])', r'\1<wbr>', str(markupsafe.escape(name))))


def plus_minus(statistic: Statistic | None, signed: bool = False) -> str:
    """``74.2 ± 0.8``; without a spread the mean alone, without values a dash."""
    if statistic is None:
        return '\N{EN DASH}'
    mean = f'{statistic.mean:{"+" if signed else ""}.1f}'.replace('-', MINUS)
    return mean if statistic.spread is None else f'{mean} ± {statistic.spread:.1f}'


def duration(seconds: object) -> str:
    """Hours and minutes, or seconds below a minute."""
    if not isinstance(seconds, (int, float)):
        return '\N{EN DASH}'
    if seconds < 60:
        return f'{seconds:.0f} s'
    hours, minutes = divmod(round(seconds / 60), 60)
    return f'{hours} h {minutes:02d} min' if hours else f'{minutes} min'


def render(title: str, sections: list[Section], notes: list[str]) -> str:
    """The whole page as HTML, which needs no other file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        breakable=breakable,
        plus_minus=plus_minus,
        duration=duration,
        base64=lambda data: base64.b64encode(data).decode(),
    )
    settings = [section.setting for section in sections]
    return environment.get_template('page.html').render(
        title=title,
        sections=[
            dict(
                setting=section.setting,
                results=results(section.setting),
                classes={
                    network: dict(zip(('columns', 'lines'), results_by_class(section.setting, network)))
                    for network in section.setting.networks
                },
                pictures=section.pictures,
            )
            for section in sections
        ],
        overview=overview(settings) if len(settings) > 1 else [],
        notes=notes,
        metric=METRIC,
        intervals=INTERVALS,
        seeds=sorted({run.seed for setting in settings for run in setting.runs}),
        number=sum(len(setting.runs) for setting in settings),
        **provenance(sections),
    )
