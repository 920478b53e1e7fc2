{{/* What the chart says itself, whose names the schema refuses among `settings`; then these, whole numbers as such. */}}
{{- define "ner.environment" -}}
{{- $name := include "ner.fullname" . -}}
{{- $service := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) -}}
{{- $hosts := concat $service (list (printf "%s.%s.svc.cluster.local" $name .Release.Namespace)) .Values.allowedHosts -}}
{{- if .Values.ingress.enabled -}}
{{- $hosts = concat $hosts .Values.ingress.hosts -}}
{{- end -}}
- {name: NER_HOST, value: 0.0.0.0}
- {name: NER_PORT, value: "8000"}
- {name: NER_HEALTH_PORT, value: "8001"}
- {name: NER_STATE_DIR, value: /var/lib/ner}
- {name: NER_MODEL, value: {{ .Values.model.name | quote }}}
- {name: NER_ALLOWED_HOSTS, value: {{ uniq $hosts | join "," | quote }}}
- {name: NER_DRAIN_S, value: {{ .Values.drainSeconds | quote }}}
- {name: NER_TIMEOUT_MS, value: {{ int64 .Values.timeoutMs | quote }}}
- {name: NER_ADMIN_KEY_FILE, value: /run/secrets/keys/admin-key}
{{- if include "ner.hasApiKey" . }}
- {name: NER_API_KEY_FILE, value: /run/secrets/keys/api-key}
{{- end }}
{{- if include "ner.hasPolicyStore" . }}
- {name: NER_POLICY_STORE_FILE, value: /run/secrets/policy-store/url}
{{- end }}
{{- $limits := default dict .Values.resources.limits -}}
{{- $requests := default dict .Values.resources.requests -}}
{{- if and (not (hasKey $limits "cpu")) (hasKey $requests "cpu") (not (hasKey .Values.settings "NER_THREADS")) }}
- name: NER_THREADS
  valueFrom:
    resourceFieldRef: {containerName: ner, resource: requests.cpu}
{{- end }}
{{- range $key, $value := .Values.settings }}
{{- $whole := and (kindIs "float64" $value) (eq (floor $value) (float64 $value)) }}
- {name: {{ $key }}, value: {{ ternary (int64 $value) $value $whole | toString | quote }}}
{{- end }}
{{- end -}}
