"""Guessing strategies. Catalogue: name -> "module:attribute"; one file each, one page each in docs/drafters."""

DRAFTERS = {
    "none": "crossdraft.drafters.none:NoDraft",
    "constant": "crossdraft.drafters.constant:Constant",
    "ngram": "crossdraft.drafters.ngram:NGram",
    "memory": "crossdraft.drafters.memory:Memory",
    "medusa": "crossdraft.drafters.medusa:Medusa",
    "eagle": "crossdraft.drafters.eagle:Eagle",
    "eagle2": "crossdraft.drafters.eagle:Eagle2",
    "hass": "crossdraft.drafters.eagle:Hass",
    "eagle3": "crossdraft.drafters.eagle3:Eagle3",
    "eagle_vlm": "crossdraft.drafters.vision:EagleVLM",
    "spec_vlm": "crossdraft.drafters.vision:SpecVLM",
    "vispec": "crossdraft.drafters.vision:ViSpec",
    "msd": "crossdraft.drafters.vision:MSD",
    "draft_model": "crossdraft.drafters.draft_model:DraftModel",
    "layer_skip": "crossdraft.drafters.layer_skip:LayerSkip",
    "cross_modal": "crossdraft.drafters.cross_modal:CrossModal",
}
