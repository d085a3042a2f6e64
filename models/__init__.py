"""Networks: policies and value models, their codecs, samplers and normalisation. Torch lives here and in learners."""
