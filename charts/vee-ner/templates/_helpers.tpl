{{- define "ner.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "ner.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "ner.redisSelector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: redis
{{- end -}}

{{/* Of everything; a selector stands beside it where a component is meant. */}}
{{- define "ner.labels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "ner.keysSecret" -}}
{{- default (printf "%s-keys" (include "ner.fullname" .)) .Values.keys.existingSecret -}}
{{- end -}}

{{- define "ner.hasPolicyStore" -}}
{{- if or .Values.redis.enabled .Values.policyStore.existingSecret -}}yes{{- end -}}
{{- end -}}

{{- define "ner.policyStoreSecret" -}}
{{- default (printf "%s-redis" (include "ner.fullname" .)) .Values.policyStore.existingSecret -}}
{{- end -}}

{{- define "ner.hasApiKey" -}}
{{- if or .Values.keys.api (and .Values.keys.existingSecret .Values.keys.requireApiKey) -}}yes{{- end -}}
{{- end -}}

{{/* Answers on for the drain, then as long as the slowest request, and ten seconds to end. */}}
{{- define "ner.gracePeriodSeconds" -}}
{{- add .Values.drainSeconds (div (add .Values.timeoutMs 999) 1000) 10 -}}
{{- end -}}

{{/* A value of a secret of ours: as given, else as it is in the cluster, else a new one. (root, secret, key, given) */}}
{{- define "ner.secretValue" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- if .given -}}
{{- .given -}}
{{- else if and $found (hasKey (default dict $found.data) .key) -}}
{{- index $found.data .key | b64dec -}}
{{- else -}}
{{- randAlphaNum 40 -}}
{{- end -}}
{{- end -}}

{{/* A combination of values that cannot work ends the rendering with what to do. */}}
{{- define "ner.check" -}}
{{- $several := or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) -}}
{{- $store := include "ner.hasPolicyStore" . -}}
{{- if and .Values.redis.enabled .Values.policyStore.existingSecret -}}
{{- fail "redis.enabled and policyStore.existingSecret name two stores of one policy; set redis.enabled=false to use yours" -}}
{{- end -}}
{{- if and $several (not $store) -}}
{{- fail "more than one replica without a policy store, so each would have an exit policy of its own; set redis.enabled=true or policyStore.existingSecret, or replicas=1" -}}
{{- end -}}
{{- if and .Values.persistence.enabled $several -}}
{{- fail "persistence.enabled is for one replica, since each needs a state folder of its own; replicas that share a policy store need none" -}}
{{- end -}}
{{- if and .Values.keys.existingSecret (or .Values.keys.admin .Values.keys.api) -}}
{{- fail "keys.existingSecret and keys.admin or keys.api are both set; name the secret or the keys" -}}
{{- end -}}
{{- if and .Values.keys.requireApiKey (not .Values.keys.existingSecret) -}}
{{- fail "keys.requireApiKey says that keys.existingSecret has api-key, and no secret is named; set keys.api instead" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled without ingress.hosts; name at least one host" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.query) (not .Values.monitoring.prometheusRule.enabled) (not .Values.monitoring.rulesConfigMap.enabled) -}}
{{- fail "autoscaling.enabled needs the recorded series; set monitoring.prometheusRule.enabled or monitoring.rulesConfigMap.enabled, or a query of your own as autoscaling.query" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas is %d, more than autoscaling.maxReplicas, %d" (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- end -}}
