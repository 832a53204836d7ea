"""Feature networks that need an operator's word: what the name "inception" stands for, and which files may run code."""

INCEPTION = "inception"
INCEPTION_VARIABLE = "DDO_INCEPTION_WEIGHTS"
TRUSTED_FEATURE_NETWORKS = "DDO_TRUSTED_FEATURE_NETWORKS"
_URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
FETCH_INCEPTION = f"curl --location --remote-name {_URL}"
