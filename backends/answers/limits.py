"""How much of a reply is looked at, and how long an answer may be."""

MAX_ANSWER_CHARS = 120  # beyond this a "short answer" is prose, and prose is never voted on
MAX_SCAN_CHARS = 16_384  # an answer stands near the end; older text is not scanned
MAX_DIGITS = 40
