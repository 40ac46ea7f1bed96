"""The one exception a user may see, under the name by which core and pages know it."""

from hardware.errors import ExplorerError as ExplorerError
from hardware.errors import of_disk as of_disk
