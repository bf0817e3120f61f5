{{/*
A secret that is made once and then kept, over upgrades and over uninstalling. Takes context, name, key, and setting
(the value that names an existing secret instead). Without a cluster to look into, as in `helm template`,
a value is made at each rendering: name an existing secret there.
*/}}
{{- define "agentmesh.generatedSecret" -}}
{{- $context := .context -}}
{{- $known := lookup "v1" "Secret" $context.Release.Namespace .name -}}
{{- $value := get (get ($known | default dict) "data" | default dict) .key -}}
{{- if and $context.Release.IsUpgrade (not $value) -}}
{{- fail (printf "Secret %s with key %s is gone or cannot be seen from here, and a new one would invalidate what the old one signed. Restore it, or name another in %s. (A dry run needs --dry-run=server to see it.)" .name .key .setting) -}}
{{- end -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ .name }}
  namespace: {{ $context.Release.Namespace }}
  labels:
    {{- include "agentmesh.labels" $context | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
type: Opaque
data:
  {{ .key }}: {{ $value | default (randAlphaNum 48 | b64enc) }}
{{- end -}}

{{- define "agentmesh.tlsSecret" -}}
{{- .Values.global.tls.existingSecret | default (printf "%s-tls" (include "agentmesh.fullname" .)) -}}
{{- end -}}

{{- define "agentmesh.certificate" -}}
{{- $tls := .Values.global.tls -}}
{{- if and $tls.enabled $tls.certManager.enabled -}}
{{- if $tls.existingSecret -}}
{{- fail "global.tls.existingSecret and global.tls.certManager.enabled exclude each other: a certificate is either given or issued" -}}
{{- end -}}
{{- if not $tls.certManager.issuer.name -}}
{{- fail "global.tls.certManager.issuer.name is empty: name the Issuer or ClusterIssuer that signs the mesh's certificates" -}}
{{- end -}}
{{- $name := include "agentmesh.fullname" . -}}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  {{- include "agentmesh.metadata" . | nindent 2 }}
spec:
  secretName: {{ include "agentmesh.tlsSecret" . }}
  commonName: {{ $name | trunc 64 | trimSuffix "-" }}
  duration: {{ $tls.certManager.duration }}
  renewBefore: {{ $tls.certManager.renewBefore }}
  privateKey:
    algorithm: ECDSA
    size: 256
    rotationPolicy: Always
  usages: [digital signature, server auth, client auth]
  dnsNames:
    {{- range $service := list $name (printf "%s-headless" $name) }}
    - {{ $service }}
    - {{ $service }}.{{ $.Release.Namespace }}
    - {{ $service }}.{{ $.Release.Namespace }}.svc
    - {{ $service }}.{{ $.Release.Namespace }}.svc.cluster.local
    {{- end }}
    # Single pods of a StatefulSet.
    - "*.{{ $name }}-headless.{{ $.Release.Namespace }}.svc"
    # The probes of the pod itself.
    - localhost
  issuerRef:
    {{- toYaml $tls.certManager.issuer | nindent 4 }}
{{- end -}}
{{- end -}}
