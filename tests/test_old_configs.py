"""Configs of older runs, with fields that are gone."""

import json

import pytest

from segjax import config as config_lib
from segjax.errors import UserError


@pytest.mark.parametrize("value", [False, True])
def test_removed_fields_are_left_out(value, tmp_path):
  file = tmp_path / "config.json"
  old = config_lib.default().to_dict() | dict(fused_loss=value)
  file.write_text(json.dumps(old, default=list))
  assert config_lib.flatten(config_lib.load(file)) == config_lib.flatten(config_lib.default())
  file.write_text(json.dumps(old | dict(fused_los=value), default=list))
  with pytest.raises(UserError, match="fused_los"):
    config_lib.load(file)
