"""The one exception a user may see, under the name by which core and pages know it.

It is defined in `hardware`, which raises it too and may import nothing of core.
"""

from hardware.errors import ExplorerError as ExplorerError
from hardware.errors import of_disk as of_disk
