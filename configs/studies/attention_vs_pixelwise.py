"""A class asked for through attention against a softmax at each pixel, on a frozen encoder.

  python launch/study.py --study=configs/studies/attention_vs_pixelwise.py
  python launch/study.py \
    --study=configs/studies/attention_vs_pixelwise.py:data=camvid,weights=imagenet,additive=2
  python launch/study.py \
    --study=configs/studies/attention_vs_pixelwise.py:backbone=resnet18,weights=runs/dino
  python launch/study.py --study=configs/studies/attention_vs_pixelwise.py:smoke

CamVid, ImageNet weights, 128x192, 6 epochs, seeds 0 and 1, two Zen 4 cores, 2026-11-27: mean IoU
0.650 ± 0.002 by a softmax, additive 0.509 ± 0.018, dot product 0.515 ± 0.012, scaled 0.522 ± 0.007;
a softmax trained 1.15 times as long, which gives it the time of an attention, 0.663 ± 0.002. 2.6 to
3.0 minutes per run, most beside tests, 35 in all.

All variants have equal epochs, but for softmaxes that train longer, which is to give them the wall
time of an attention. How many times as long is said by `additive=`, `dot=` and `scaled_dot=` (1.5
each): take the ratios of the minutes in the report. The report compares each attention with both.
"""

from segjax import config as config_lib
from segjax.study import Study

KINDS = {"additive": "additive", "dot": "dot product", "scaled_dot": "scaled dot product"}


def get_study(arg=""):
  a = config_lib.parse_arg(
    arg,
    data="road_scenes",
    backbone="efficientnet_lite0",
    weights="",
    **dict.fromkeys(KINDS, 1.5),
    smoke=False,
  )
  more = config_lib.write_arg(data=a.data, backbone=a.backbone, weights=a.weights, smoke=a.smoke)
  spec = f"configs/pixelwise_objects.py:{more}"
  times = {f"softmax, {a[k]:g} times as long": a[k] for k in KINDS}  # kinds may share one
  return Study(
    title="Attention against a softmax at each pixel",
    question="Does it help to ask for one class at a time and to attend to where it is, for equal "
    "epochs and for equal time?",
    variants={
      "softmax per pixel": spec,
      **{text: f"configs/attention_objects.py:attention={k},{more}" for k, text in KINDS.items()},
      **dict.fromkeys(times, spec),
    },
    compare=(
      *(("softmax per pixel", text) for text in KINDS.values()),
      *((f"softmax, {a[k]:g} times as long", text) for k, text in KINDS.items()),
      *(("softmax per pixel", longer) for longer in times),
    ),
    derived={longer: _lengthen(factor) for longer, factor in times.items()},
    seeds=(0, 1) if a.smoke else (0, 1, 2),
  )


def _lengthen(factor):
  kinds = ("total_steps", "total_epochs")
  return lambda c: {k: type(c[k])(round(c[k] * factor, 6)) for k in kinds}
