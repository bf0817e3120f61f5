{{/*
Who may talk to whom. A chart says who calls it in <chart>.callers (components, separated by spaces; `*` is
everybody) and whom it calls in <chart>.callees, and adds rules of its own in <chart>.egress.
*/}}
{{- define "agentmesh.networkPolicy" -}}
{{- if .Values.global.networkPolicy.enabled -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "agentmesh.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "agentmesh.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- include "agentmesh.ingressRules" . | nindent 4 }}
  egress:
    - to:
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: {{ .Values.global.networkPolicy.dnsNamespace }}
      ports:
        - {protocol: UDP, port: 53}
        - {protocol: TCP, port: 53}
    {{- range (include (printf "%s.callees" .Chart.Name) . | splitList " " | compact) }}
    - to:
        - {{ include "agentmesh.peer" (dict "context" $ "component" .) | nindent 10 | trim }}
      ports:
        - {protocol: TCP, port: {{ include "agentmesh.port" . }}}
    {{- end }}
    {{- with (include "agentmesh.telemetryEgress" .) }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with (include (printf "%s.egress" .Chart.Name) .) }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with .Values.networkPolicy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
{{- end -}}

{{- define "agentmesh.ingressRules" -}}
{{- $callers := include (printf "%s.callers" .Chart.Name) . -}}
- ports:
    - {protocol: TCP, port: grpc}
    {{- with (include (printf "%s.ingressPorts" .Chart.Name) .) }}
    {{- . | nindent 4 }}
    {{- end }}
  {{- if eq $callers "*" }}
  {{- with .Values.networkPolicy.from }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- else }}
  from:
    {{- range splitList " " $callers }}
    - {{ include "agentmesh.peer" (dict "context" $ "component" .) | nindent 6 | trim }}
    {{- end }}
    {{- if .Values.tests.enabled }}
    - {{ include "agentmesh.peer" (dict "context" . "component" "helm-test") | nindent 6 | trim }}
    {{- end }}
  {{- end }}
{{- with .Values.networkPolicy.extraIngress }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The collector's port follows from its address; its pods do not, unless they are named. */}}
{{- define "agentmesh.telemetryEgress" -}}
{{- with .Values.global.telemetry.otlpEndpoint -}}
{{- $host := (urlParse .).host -}}
- ports:
    - {protocol: TCP, port: {{ regexFind "[0-9]+$" $host | default "4317" }}}
  {{- with $.Values.global.telemetry.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}
