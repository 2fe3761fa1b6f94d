"""Outside data: which sources there are, where they lie, how they get here, and what they say.

`catalogue` lists the sources and finds, fetches and verifies their files, `load` reads what is in them: rows, test
prompts, tables, a tokenizer. `rows`, `turns` and `forms` know the forms of datasets; `records` opens files of rows, of
the kinds in `json_records`, `line_records` and `arrow_records`, `packed` or not; `tokens` counts tokens.
`python -m nbutils.data` lists and fetches.
"""

from nbutils.data.catalogue import (
    Source,
    cache_folder,
    can_obtain,
    fetch,
    hash_source,
    is_at_hand,
    locate,
    obtain,
    source,
    sources,
    sources_of,
    unpacked_member,
)
from nbutils.data.load import (
    fingerprint,
    fingerprint_pool,
    fingerprint_test_set,
    llama2_tokenizer,
    load_outputs,
    load_pool,
    load_prompts,
    load_rows,
    load_table,
    read_own_rows,
)
