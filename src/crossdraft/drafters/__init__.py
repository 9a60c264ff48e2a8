"""Guessing strategies. Catalogue: name -> "module:attribute"; one file each, one page each in docs/drafters."""

DRAFTERS = {
    "none": "crossdraft.drafters.none:NoDraft",
    "constant": "crossdraft.drafters.constant:Constant",
    "ngram": "crossdraft.drafters.ngram:NGram",
    "memory": "crossdraft.drafters.memory:Memory",
    "cross_modal": "crossdraft.drafters.cross_modal:CrossModal",
}
