import pytest

from fmriscale.common.errors import UserError
from fmriscale.common.out_folder import refuse_other_content

CONTENT = {
    "a corpus": "corpus.json",
    "a pre-training run": "metrics.jsonl",
    "a study": "cells",
    "a probe": "fits",
}


@pytest.mark.parametrize("content", CONTENT)
@pytest.mark.parametrize("own", CONTENT)
def test_a_folder_that_holds_something_else_is_refused_and_ones_own_is_not(tmp_path, own, content):
    refuse_other_content(tmp_path / "new", own)
    (tmp_path / CONTENT[content]).mkdir()
    if own == content:
        return refuse_other_content(tmp_path, own)
    with pytest.raises(UserError, match=f"holds {content}, which {own} would overwrite; choose another out"):
        refuse_other_content(tmp_path, own)
