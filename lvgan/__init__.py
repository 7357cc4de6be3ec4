"""lvgan: endless, non-repeating video of one kind of scene, learnt from footage of it.

The system of "Generating Long Videos of Dynamic Scenes" (Brooks et al., NeurIPS 2022,
arXiv 2206.03429), written anew. `lvgan --help` lists the commands.
"""

__version__ = "0.1.0"
