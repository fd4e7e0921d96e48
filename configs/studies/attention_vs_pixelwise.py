"""A class asked for through attention against a softmax at each pixel, on a frozen encoder.

  python launch/study.py --study=configs/studies/attention_vs_pixelwise.py
  python launch/study.py \
    --study=configs/studies/attention_vs_pixelwise.py:data=camvid,weights=imagenet,longer=1.5
  python launch/study.py --study=configs/studies/attention_vs_pixelwise.py:smoke

All variants have equal epochs but the last, the softmax trained `longer` times, which is to give it
the wall time of attention: take the ratio of the minutes that the report tells. The report compares
each attention with both.
"""

from segjax import config as config_lib
from segjax.study import Study

KINDS = {"additive": "additive", "dot product": "dot", "scaled dot product": "scaled_dot"}


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", weights="", longer=1.5, smoke=False)
  more = config_lib.write_arg(data=a.data, weights=a.weights, smoke=a.smoke)
  spec = f"configs/pixelwise_objects.py:{more}"
  variants = {"softmax a pixel": spec}
  variants |= {k: f"configs/attention_objects.py:attention={v},{more}" for k, v in KINDS.items()}
  variants |= {"softmax, more time": spec}
  return Study(
    title="Attention against a softmax at each pixel",
    question="Does it help to ask for one class at a time and to attend to where it is, for equal "
    "epochs and for equal time?",
    variants=variants,
    compare=(
      *(("softmax a pixel", k) for k in KINDS),
      *(("softmax, more time", k) for k in KINDS),
      ("softmax a pixel", "softmax, more time"),
    ),
    derived={
      "softmax, more time": lambda c: {
        k: type(c[k])(c[k] * a.longer) for k in ("total_steps", "total_epochs")
      }
    },
    notes={"softmax, more time": f"{a.longer:g} times as long"},
    seeds=(0, 1) if a.smoke else (0, 1, 2),
  )
