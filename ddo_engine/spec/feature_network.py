"""Feature networks that have a name: what it stands for is the operator's to say, and the user's to fetch."""

INCEPTION = "inception"
INCEPTION_VARIABLE = "DDO_INCEPTION_WEIGHTS"
_URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
FETCH_INCEPTION = f"curl --location --remote-name {_URL}"
