"""The bundle on disk: its manifest, the signatures of its graphs, and the sizes that follow from them."""
