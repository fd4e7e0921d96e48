"""What holds for all tasks: nothing that is scored is a product of few bits."""

import jax
import jax.numpy as jnp
import pytest

from segjax.tasks import ClassQuery, Colorization, Dino, SimCLR

F32, SIZE = jnp.float32, (2, 12, 16)
LABEL = jax.ShapeDtypeStruct(SIZE, jnp.int32)
PICTURE = jax.ShapeDtypeStruct((*SIZE, 3), F32)


def array(*shape):
  return jax.ShapeDtypeStruct(shape, F32)


@pytest.mark.parametrize(
  ("task", "outputs", "label"),
  [
    (ClassQuery(("a", "b", "c"), attention=1.0),
     dict(logits=array(*SIZE, 2), attention=array(2, 2, 3, 4)), LABEL),
    (Colorization((), output="bins"), None, PICTURE),
    (Dino((), prototypes=6),
     dict(student=array(4, 2, 6), teacher=array(2, 2, 6), features=array(2, 2, 5)), None),
    (SimCLR(()), array(4, 5), None),
  ],
)  # fmt: skip
def test_products_in_statistics_keep_all_bits(task, outputs, label):
  """A GPU multiplies float32 with 10 bits where nothing else is asked for."""
  outputs = array(*SIZE, task.num_outputs) if outputs is None else outputs
  trace = lambda o, y: task.statistics(o, y, jnp.ones(2, bool), evaluating=True)  # noqa: E731
  text = str(jax.make_jaxpr(trace)(outputs, label))
  exact = text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
  assert text.count("dot_general[") == exact > 0
