"""Running the functional suite: where it runs, with which parameters, one call of Avocado and what its tests left."""
