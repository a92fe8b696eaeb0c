"""What a study tells while it runs."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Display:
    """Messages, and progress bars on a terminal or a line a minute elsewhere.

    Args:
        total (int): Number of runs.
        console (Console, optional): Defaults to standard output.
        interval (float): Seconds between two lines of progress where there is no terminal.
    """

    def __init__(self, total: int, console: Console | None = None, interval: float = 60.0) -> None:
        self._console = console or Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._total, self._interval = total, interval
        self._next = time.monotonic() + interval
        self._bars: dict[str, TaskID] = {}
        self._progress: Progress | None = None
        if self._console.is_terminal:
            columns = TextColumn('{task.description}', markup=False), BarColumn(), MofNCompleteColumn()
            self._progress = Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True)
            self._all = self._progress.add_task('runs', total=total)

    def __enter__(self) -> Display:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress:
            self._progress.stop()

    def say(self, text: str) -> None:
        """Prints a message that stays."""
        self._console.print(f'{time.strftime("%H:%M:%S")}  {text}', highlight=False, markup=False, soft_wrap=True)

    def update(self, finished: int, running: list[tuple[str, int, int]], remaining: str) -> None:
        """Shows how far it is.

        Args:
            finished (int): Number of runs.
            running (list): Name, iteration and last iteration of each running one.
            remaining (str): Time left, as text.
        """
        if self._progress:
            self._progress.update(self._all, completed=finished, description=f'runs, {remaining} left')
            names = [name for name, *_ in running]
            for name in [name for name in self._bars if name not in names]:
                self._progress.remove_task(self._bars.pop(name))
            for name, iteration, last in running:
                if name not in self._bars:
                    self._bars[name] = self._progress.add_task(name, total=last)
                self._progress.update(self._bars[name], completed=iteration)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + self._interval
            each = ', '.join(f'{name} {iteration}/{last}' for name, iteration, last in running)
            self.say(f'{finished} of {self._total} runs finished, {remaining} left; {each or "waiting"}')
