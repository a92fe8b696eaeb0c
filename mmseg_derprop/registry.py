"""Registries of the scope ``mmseg_derprop``, children of MMSegmentation's.

The package's parts are registered in MMSegmentation's registries, so configs of the scope ``mmseg`` find them. But
what a config inherits from a base named ``mmseg_derprop::`` mmengine marks with that scope, and looks for it in
registries of that scope, here. They hold nothing of their own; a lookup goes on to their parents.
"""

from __future__ import annotations

from mmengine.registry import Registry
from mmseg import registry as mmseg_registry

SCOPE = 'mmseg_derprop'
# Imported at the first lookup, because mmengine imports a registry's own locations but not those of its parent.
LOCATIONS = [SCOPE, *(f'mmseg.{part}' for part in ('datasets', 'engine', 'evaluation', 'models', 'visualization'))]

for _name, _parent in list(vars(mmseg_registry).items()):
    if isinstance(_parent, Registry):
        globals()[_name] = Registry(_parent.name, parent=_parent, scope=SCOPE, locations=LOCATIONS)
