"""All readers by name."""

import align_readers
import model_readers
import text_readers
from reader import Reader

READERS: dict[str, Reader] = {**text_readers.READERS, **model_readers.READERS, **align_readers.READERS}
