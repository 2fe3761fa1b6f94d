"""One's own dataset and test sets, read to their ends before anything runs, not after hours of training."""

from collections import Counter
from pathlib import Path

from nbutils import arms, data, prompts
from nbutils.core.errors import InputError, check_k
from nbutils.core.settings import Profile, is_offline
from nbutils.data.record_file import RecordFile
from nbutils.data.records import detect_rows, naming_row, number_records, open_records
from nbutils.data.rows import Row, to_row, used_fields
from nbutils.selection.measures import Scripts, say_misfit


def check_prompts(profile: Profile, name: str) -> str:
    """Read a test set of a profile where it is one's own; a line on what it holds.

    Raises InputError naming file and row for a prompt that cannot be read or is empty, an id given twice, and a missing
    reference where a judge needs it.
    """
    if name in data.sources():
        return f"{name}: a public test set"
    prompts = data.load_prompts(name)
    if not prompts:
        raise InputError(f"{name}: no prompts")
    twice, times = Counter(prompt.id for prompt in prompts).most_common(1)[0]
    if times > 1:
        raise InputError(f"{name}: {times} prompts have the id '{twice}': give each its own, or leave the ids out")
    needs_reference = any(judge.kind == "reference" for judge in profile.judging.judges)
    for row, prompt in enumerate(prompts):
        where = f"{name}: row {row}"
        for field in ("input", "reference", "category"):
            if not isinstance(getattr(prompt, field), str):
                raise InputError(f"{where}: '{field}' is {type(getattr(prompt, field)).__name__}, not text")
        if not (prompt.instruction + prompt.input).strip():
            raise InputError(f"{where}: the prompt is empty: write one, or take the row out")
        if needs_reference and not prompt.reference:
            needed = "no 'reference', which the reference judge needs"
            raise InputError(f"{where}: {needed}: add it, or choose other judges")
    return f"{name}: {len(prompts):,} prompts, {sum(bool(prompt.reference) for prompt in prompts):,} with a reference"


def show_example(file: RecordFile, style: str = "plain", field: str | None = None) -> list[str]:
    """The first row of a file as it would be trained, and which fields of all its rows are used and which are not.

    Raises InputError, naming file and row, for what cannot be read.
    """
    form, nothing = detect_rows(file, field), InputError(f"{file.path}: no rows: give a file that has some")
    if form is None:
        raise nothing
    used: dict[str, None] = {}
    unused: dict[str, None] = {}
    example: Row | None = None
    for number, record in number_records(file):
        with naming_row(file, number):
            row = to_row(record, number, file.path.name, form)
        example = example or row
        for names, seen in zip(used_fields(record, form), (used, unused), strict=True):
            seen.update(dict.fromkeys(names))
    if example is None:
        raise nothing
    kind = "the conversation" if form.kind == "turns" else "the response"
    fields = f"{kind} in '{form.column}'; fields used: {', '.join(used)}; not used: {', '.join(unused) or 'none'}"
    notes = [f"note: {form.note}"] if form.note else []
    said = f"row {example.id} as it would be trained in style '{style}', what the model is to write behind the arrow:"
    response = prompts.response_text(example, style)
    if style == "chat":  # the template comes with the model, which is not looked at here
        prompt = "".join(f"[{role}] {text}\n" for role, text in prompts.conversation(example)) + "[assistant] "
    else:
        prompt = prompts.render(example, style).text
    return [f"{file.path}: {fields}", *notes, said, f"{prompt}→{response}"]


def refuse_missing(profile: Profile) -> None:
    """Raise InputError for a dataset, arm or test set of a profile that is neither known nor a file."""
    here = f" (looked for beside the profile, then in the working directory, {Path.cwd()})"
    if profile.dataset not in data.sources() and not Path(profile.dataset).exists():
        raise InputError(f"profile '{profile.name}': dataset '{profile.dataset}' is neither a source nor a file{here}")
    for name in profile.arms:
        try:
            arm = arms.parse_arm(name)
        except InputError as error:
            raise InputError(f"profile '{profile.name}': key 'arms': {error}") from None
        if arm.rule == "rated":
            arms.ratings_of(arm, profile)
    for name in profile.generation.test_sets:
        if name != "sample" and name not in data.sources_of("prompts") and not Path(name).is_file():
            choices = ", ".join(["sample", *data.sources_of("prompts")])
            wanted = f"a .jsonl file{here}, or one of {choices}"
            raise InputError(f"profile '{profile.name}': unknown test set '{name}': {wanted}")


def name_absent(profile: Profile, fetch: bool = True) -> list[str]:
    """Public data of a profile (with what is at hand) that this machine does not have and, where it may, cannot get."""
    drawn = (arms.pool_source(arms.parse_arm(arm), profile) for arm in profile.arms)
    names = dict.fromkeys([profile.dataset, *drawn, *profile.generation.test_sets])
    has = data.can_obtain if fetch else data.is_at_hand
    return [name for name in names if name in data.sources() and not has(name)]


def refuse_absent(profile: Profile) -> None:
    """Raise InputError for public data that a profile needs and this machine can neither read nor get.

    What can be had is fetched here: a run begins when it has all its data.
    """
    if absent := name_absent(profile):
        why = "LIM_OFFLINE forbids asking the network" if is_offline() else "the network does not give them"
        fetch = f"run `python -m nbutils.data fetch {' '.join(absent)}` where there is a network"
        mend = f"{fetch}, or set LIM_DATA_MIRROR to a folder that has them"
        raise InputError(f"profile '{profile.name}' needs {', '.join(absent)}: not on this machine, and {why}: {mend}")


def check_inputs(profile: Profile) -> list[str]:
    """Refuse what does not exist or cannot be read before anything runs; a line on every own file and test set.

    A line more for each own test set with prompts that stand in the own dataset: a model has seen those. Raises
    InputError for an arm of more rows than the own dataset has, too.
    """
    refuse_missing(profile)
    test_sets = profile.generation.test_sets
    if profile.dataset in data.sources():
        return [check_prompts(profile, name) for name in test_sets]
    rows = data.load_pool(profile.dataset)
    for arm in map(arms.parse_arm, profile.arms):
        if arm.pool == "own":
            check_k(arm.k, len(rows), f"arm '{arm.name}' of {profile.dataset}")
    empty = {
        "instruction": sum(not (row.instruction + row.input).strip() for row in rows),
        "response": sum(not row.response.strip() for row in rows),
    }
    notes = [f", {count:,} of them with an empty {what}" for what, count in empty.items() if count]
    lines = [f"{profile.dataset}: {len(rows):,} rows" + "".join(notes), *_note_reading(profile, rows)]
    lines += [check_prompts(profile, name) for name in test_sets]
    taught = {(row.instruction.strip(), row.input.strip()) for row in rows}
    for name in (name for name in test_sets if name not in data.sources()):
        asked = data.load_prompts(name)
        ids = [prompt.id for prompt in asked if (prompt.instruction.strip(), prompt.input.strip()) in taught]
        if ids:
            where = f"{len(ids)} (first: id '{ids[0]}')"
            lines.append(f"note: {name}: prompts that stand in the training rows as well: {where}: take them out")
    return lines


def _note_reading(profile: Profile, rows: list[Row]) -> list[str]:
    """Which of two responses is read of one's own rows, and a measure that cannot count their script."""
    form, scripts = detect_rows(open_records(Path(profile.dataset))), Scripts()
    scripts.add([text for row in rows for text in row.responses])
    misfit = say_misfit(profile.selection.measure, scripts, ties=0, rows=len(rows))
    return [f"note: {profile.dataset}: {note}" for note in (form and form.note, misfit) if note]


def check_whole(profile: Profile) -> list[str]:
    """`check_inputs`, and of one's own dataset an example as it would be trained."""
    lines = check_inputs(profile)
    if profile.dataset not in data.sources():
        lines += show_example(open_records(Path(profile.dataset)), profile.training.prompt_style)
    return lines
