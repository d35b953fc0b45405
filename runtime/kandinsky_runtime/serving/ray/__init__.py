"""`k22 serve` as an application of Ray Serve: `serve run kandinsky_runtime.serving.ray:app bundles=/bundle …`."""

from kandinsky_runtime.serving.ray.application import app as app
