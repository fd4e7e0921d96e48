"""A class asked for through attention against a softmax at each pixel, on a frozen encoder.

  python launch/study.py --study=configs/studies/attention_vs_pixelwise.py
  python launch/study.py \
    --study=configs/studies/attention_vs_pixelwise.py:data=camvid,weights=imagenet,longer=1.5
  python launch/study.py --study=configs/studies/attention_vs_pixelwise.py:smoke

All variants have equal epochs; the last is the softmax trained `longer` times, which is to give it
the wall time of attention: take the ratio of the minutes that the report tells.
"""

from segjax import config as config_lib
from segjax.study import Study

KINDS = {"additive": "additive", "dot product": "dot", "scaled dot product": "scaled_dot"}


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", weights="", longer=1.5, smoke=False)
  more = f"data={a.data},weights={a.weights},smoke={a.smoke}"
  spec = f"configs/pixelwise_objects.py:{more}"
  c = config_lib.read(spec)
  kind = "steps" if c.total_steps else "epochs"
  total = c[f"total_{kind}"]
  longer = type(total)(total * a.longer)
  variants = {"softmax a pixel": spec}
  variants |= {k: f"configs/attention_objects.py:attention={v},{more}" for k, v in KINDS.items()}
  variants |= {"softmax, more time": spec}
  return Study(
    name=f"attention_vs_pixelwise_{a.data}",
    title="Attention against a softmax at each pixel",
    question="Does it help to ask for one class at a time and to attend to where it is, for equal "
    "epochs and for equal time?",
    variants=variants,
    changes={"softmax, more time": {f"total_{kind}": longer}},
    notes={"softmax, more time": f"{a.longer:g} times as long"},
    seeds=(0, 1) if a.smoke else (0, 1, 2),
  )
