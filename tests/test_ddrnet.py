"""DDRNet: its counts and the outputs of a rewriting of the paper in PyTorch."""

import numpy as np
import pytest
from light import random_variables, shapes
from test_decoders import images, randomize, run
from test_parity import relative, run_torch

from segjax import models, weights


def torch_ddrnet(w, pool, head, classes):
  """DDRNet after figures 3 to 5 and table 1 of the paper, with the names of its authors' files."""
  import torch
  from torch import nn

  norm, relu = nn.BatchNorm2d, nn.ReLU

  def conv(n, m, size=1, stride=1, bias=False):
    return nn.Conv2d(n, m, size, stride, size // 2, bias=bias)

  def sized(x, like):
    return nn.functional.interpolate(x, size=like.shape[2:], mode="bilinear")

  class Block(nn.Module):
    def __init__(self, n, m, stride=1, bottleneck=False):
      super().__init__()
      inner = m // 2 if bottleneck else m
      steps = [(n, inner, 1, 1), (inner, inner, 3, stride), (inner, m, 1, 1)]
      self.count = len(steps := steps if bottleneck else [(n, m, 3, stride), (m, m, 3, 1)])
      for i, step in enumerate(steps, 1):
        setattr(self, f"conv{i}", conv(*step))
        setattr(self, f"bn{i}", norm(step[1]))
      self.downsample = nn.Identity()
      if stride > 1 or n != m:
        self.downsample = nn.Sequential(conv(n, m, 1, stride), norm(m))

    def forward(self, x):
      y = x
      for i in range(1, self.count + 1):
        y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(torch.relu(y) if i > 1 else y))
      return y + self.downsample(x)

  def stage(n, m, stride=1):
    return nn.ModuleList([Block(n, m, stride), Block(m, m)])

  class Pooling(nn.Module):
    def __init__(self, n, m):
      super().__init__()
      pools = [nn.AvgPool2d(2 * s + 1, s, s) for s in (2, 4, 8)] + [nn.AdaptiveAvgPool2d(1)]
      self.scale0 = nn.Sequential(norm(n), relu(), conv(n, pool))
      for i, p in enumerate(pools, 1):
        setattr(self, f"scale{i}", nn.Sequential(p, norm(n), relu(), conv(n, pool)))
        setattr(self, f"process{i}", nn.Sequential(norm(pool), relu(), conv(pool, pool, 3)))
      self.compression = nn.Sequential(norm(5 * pool), relu(), conv(5 * pool, m))
      self.shortcut = nn.Sequential(norm(n), relu(), conv(n, m))

    def forward(self, x):
      parts = [self.scale0(x)]
      for i in range(1, 5):
        y = sized(getattr(self, f"scale{i}")(x), x)
        parts.append(getattr(self, f"process{i}")(y + parts[-1]))
      return self.compression(torch.cat(parts, 1)) + self.shortcut(x)

  class Head(nn.Module):
    def __init__(self, n):
      super().__init__()
      self.bn1, self.conv1 = norm(n), conv(n, head, 3)
      self.bn2, self.conv2 = norm(head), conv(head, classes, bias=True)

    def forward(self, x):
      return self.conv2(torch.relu(self.bn2(self.conv1(torch.relu(self.bn1(x))))))

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      first = conv(3, w, 3, 2, bias=True), norm(w), relu()
      self.conv1 = nn.Sequential(*first, conv(w, w, 3, 2, bias=True), norm(w), relu())
      self.layer1, self.layer2 = stage(w, w), stage(w, 2 * w, 2)
      self.layer3, self.layer3_ = stage(2 * w, 4 * w, 2), stage(2 * w, 2 * w)
      self.layer4, self.layer4_ = stage(4 * w, 8 * w, 2), stage(2 * w, 2 * w)
      self.layer5 = nn.ModuleList([Block(8 * w, 16 * w, 2, True)])
      self.layer5_ = nn.ModuleList([Block(2 * w, 4 * w, 1, True)])
      self.compression3 = nn.Sequential(conv(4 * w, 2 * w), norm(2 * w))
      self.compression4 = nn.Sequential(conv(8 * w, 2 * w), norm(2 * w))
      down = conv(2 * w, 4 * w, 3, 2), norm(4 * w)
      self.down3 = nn.Sequential(*down)
      last = conv(4 * w, 8 * w, 3, 2), norm(8 * w)
      self.down4 = nn.Sequential(conv(2 * w, 4 * w, 3, 2), norm(4 * w), relu(), *last)
      self.spp, self.final_layer = Pooling(16 * w, 4 * w), Head(4 * w)
      self.seghead_extra = Head(2 * w)

    def forward(self, image):
      def run(blocks, x):
        for block in blocks:
          x = block(torch.relu(x))
        return x

      x = run(self.layer2, run(self.layer1, self.conv1(image)))
      deep, fine = run(self.layer3, x), run(self.layer3_, x)
      x = deep + self.down3(torch.relu(fine))
      fine = fine + sized(self.compression3(torch.relu(deep)), fine)
      aux, deep, fine = self.seghead_extra(fine), run(self.layer4, x), run(self.layer4_, fine)
      x = deep + self.down4(torch.relu(fine))
      fine = fine + sized(self.compression4(torch.relu(deep)), fine)
      x, fine = self.spp(run(self.layer5, x)), run(self.layer5_, fine)
      return dict(out=sized(self.final_layer(fine + sized(x, fine)), image), aux=sized(aux, image))

  return Net()


@pytest.mark.torch
@pytest.mark.slow
def test_outputs_are_those_of_a_rewriting_in_torch():
  pytest.importorskip("torch", reason="the extra `torch` is not installed")
  theirs = randomize(torch_ddrnet(8, 12, 16, 5))
  net = models.make("ddrnet", width=8, pool_width=12, head_width=16, num_classes=5, aux=True)
  image = images((193, 267))
  variables, report = weights.load_torch(theirs.state_dict(), random_variables(net))
  assert not (report.missing or report.unexpected or report.reshaped or report.other_classes)
  want = run_torch(theirs, image)
  logits, sown = run(net, variables, image, mutable=["intermediates"])
  assert relative(logits, want["out"]) < 1e-4
  assert relative(sown["intermediates"]["aux_logits"][0], want["aux"]) < 1e-4


@pytest.mark.torch
@pytest.mark.slow
def test_counts_are_those_of_a_rewriting_in_torch():
  pytest.importorskip("torch", reason="the extra `torch` is not installed")
  theirs = torch_ddrnet(32, 128, 64, 19)
  ours = models.make("ddrnet", aux=True)
  count = models.count_params(shapes(ours)["params"])
  assert count == sum(p.numel() for p in theirs.parameters())
  one = models.count_params(shapes(models.make("ddrnet"))["params"])
  assert one == count - sum(p.numel() for p in theirs.seghead_extra.parameters())
  assert np.isclose(one, 5.7e6, atol=5e4)  # of the paper's table 4
