"""DerProp: semi-supervised semantic segmentation as an MMSegmentation extension.

Importing the package registers its parts in mmseg's registries.
"""

from .utils.quiet import import_quietly
from .utils.stack import check_stack, extend_config_packages
from .version import __version__

# Before anything imports mmseg: on a mixed installation that fails in ways that name no cause.
check_stack()
extend_config_packages()
import_quietly()

from . import datasets, engine, models  # noqa: E402
