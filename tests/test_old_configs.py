"""Configs of older runs, with fields that are gone and values that were renamed."""

import json

import pytest

from segjax import config as config_lib
from segjax import study
from segjax.errors import UserError
from segjax.training import input_pipeline


@pytest.mark.parametrize("value", [False, True])
def test_removed_fields_are_left_out(value, tmp_path):
  file = tmp_path / "config.json"
  old = config_lib.default().to_dict() | dict(fused_loss=value)
  file.write_text(json.dumps(old, default=list))
  assert config_lib.flatten(config_lib.load(file)) == config_lib.flatten(config_lib.default())
  file.write_text(json.dumps(old | dict(fused_los=value), default=list))
  with pytest.raises(UserError, match="fused_los"):
    config_lib.load(file)


def test_evaluation_at_own_size_was_called_native(tmp_path):
  file, old = tmp_path / "config.json", config_lib.default().to_dict()
  old["data"]["eval_fit"] = "native"
  file.write_text(json.dumps(old, default=list))
  config = config_lib.load(file)
  assert config.data.eval_fit == "full"
  assert study.identity(config) == "a41bf947"  # as it was under the old name


def test_the_old_name_of_a_value_is_answered_with_the_new_one():
  config = config_lib.default()
  config.data.eval_fit = "native"
  with pytest.raises(UserError, match="'native' is now called 'full'"):
    input_pipeline.make_source(config, "val")
