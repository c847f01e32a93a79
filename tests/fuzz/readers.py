"""All readers by name."""

import align_readers
import corpus_readers
import form_readers
import model_readers
import settings_readers
import text_readers
from reader import Reader

READERS: dict[str, Reader] = {
    **text_readers.READERS, **model_readers.READERS, **form_readers.READERS, **align_readers.READERS,
    **settings_readers.READERS, **corpus_readers.READERS,
}  # fmt: skip
