"""The report of a corpus: facts -> sentences and figures -> one self-contained HTML page."""
