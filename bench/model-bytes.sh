# Sourced by scripts that give a share of a model as a limit.

# A share is one of the model itself, the same for every engine: the numbers of its matrices, without the copies and predictors that a package adds.
model_bytes() { # FLASH PACKAGE
    local package
    package=$("$1" show "$2" --json) || return
    jq --argjson all "$(du -sb "$(jq -r .path <<<"$package")" | cut -f1)" '$all - .predictor_bytes - (if .predictor == "selector" and .bundles != "lean" then ([.files[] | .neurons // 0] | add) * .model.hidden_size * (if .quant == "q8" then 34 else 18 end) / 32 else 0 end) | ceil' <<<"$package"
}
