"""Tables as records, for assertions cell by cell."""


def records_of(frame):
    """One dict a row; a cell that is missing is None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
