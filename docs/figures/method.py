"""Draws docs/figures/method.png: what the singular values say.

python docs/figures/method.py
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from pmrl_jax.losses import singular_spectrum

COLOURS = {"image": "#0072B2", "speech": "#D55E00", "text": "#009E73"}
GREY = "#4D4D4D"


def unit(*degrees: float) -> np.ndarray:
  """Unit vectors in the plane at these angles, `[len(degrees), 2]`."""
  radians = np.deg2rad(degrees)
  return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def draw_vectors(axes, vectors: np.ndarray, direction: np.ndarray, title: str):
  """Draws one instance's modalities and its leading direction."""
  circle = np.linspace(0, 2 * np.pi, 200)
  axes.plot(np.cos(circle), np.sin(circle), color="0.85", linewidth=1)
  ends = 1.25 * np.stack([-direction, direction])
  axes.plot(*ends.T, color=GREY, linewidth=1, linestyle="--")
  axes.text(*(1.42 * direction), "$u_1$", color=GREY, ha="center", va="center")
  for vector, (name, colour) in zip(vectors, COLOURS.items()):
    axes.annotate(
      "",
      xy=tuple(vector),
      xytext=(0, 0),
      arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2},
    )
    axes.plot([], [], color=colour, label=name, linewidth=2)
  axes.set(xlim=(-1.5, 1.5), ylim=(-1.3, 1.3), aspect="equal")
  axes.set_title(title, fontsize=10)
  axes.axis("off")


def draw_values(axes, free: np.ndarray, consensus: float):
  """Draws the singular values, and the consensus beside the first."""
  axes.bar(range(3), free, color=GREY, width=0.5, label=r"$\sigma_i$")
  axes.bar(
    [-0.4],
    [max(consensus, 0.015)],
    color="#CC79A7",
    width=0.25,
    label=r"consensus $\|\Sigma_m z_m\|/\sqrt{3}$",
  )
  axes.axhline(np.sqrt(3), color="0.6", linestyle=":", linewidth=1)
  axes.set_xticks(range(3), [r"$\sigma_1$", r"$\sigma_2$", r"$\sigma_3$"])
  axes.set_ylim(0, 1.9)
  axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
  """Draws and saves the figure."""
  cases = {
    "apart": unit(200, 80, -30),
    "agreeing up to sign": unit(35, 222, 28),
    "aligned": unit(35, 42, 28),
  }
  figure = Figure(figsize=(8, 4.3), layout="constrained", dpi=160)
  grid = figure.subplots(2, 3, height_ratios=[1.7, 1])
  for column, (title, vectors) in enumerate(cases.items()):
    batch = jnp.asarray(vectors, jnp.float32)[None]
    free = singular_spectrum(batch)
    consensus = singular_spectrum(batch, orientation="consensus")
    direction = np.asarray(free.leading_direction[0])
    draw_vectors(grid[0, column], vectors, direction, title)
    draw_values(
      grid[1, column],
      np.asarray(free.singular_values[0]),
      float(consensus.singular_values[0, 0]),
    )
  grid[1, 0].set_ylabel("value")
  grid[1, 0].text(2.6, np.sqrt(3), r"$\sqrt{3}$", va="center", fontsize=9)
  vectors_legend, values_legend = grid[0, 0], grid[1, 0]
  figure.legend(
    *(
      a + b
      for a, b in zip(
        vectors_legend.get_legend_handles_labels(),
        values_legend.get_legend_handles_labels(),
      )
    ),
    loc="outside lower center",
    ncols=5,
    frameon=False,
    fontsize=9,
  )
  figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
  main()
