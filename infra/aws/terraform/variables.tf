variable "bucket" {
  description = "Name of the bucket for datasets; it must be free in all of S3."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,55}[a-z0-9]$", var.bucket)) && !strcontains(var.bucket, "..")
    error_message = "3 to 57 small letters, digits, hyphens and single dots, from a letter or digit to one: S3's rule (up to 63), and a role's name, which has 7 more, may have 64."
  }
}

variable "input_bucket" {
  description = "Name of the bucket that the videos and the weights lie in; it stays as it is."
  type        = string
}

variable "trusted_arns" {
  description = "Who may take the reader's and the writer's role: ARNs of roles or users. Machines of EC2 may in any case."
  type        = list(string)
  default     = []
}

variable "oidc_provider_arn" {
  description = "ARN of the OIDC provider of a cluster of EKS, a service account of which may take the same two roles; null: none."
  type        = string
  default     = null
  validation {
    condition     = var.oidc_provider_arn == null || can(regex(":oidc-provider/.", var.oidc_provider_arn))
    error_message = "An ARN like arn:aws:iam::ACCOUNT:oidc-provider/oidc.eks.REGION.amazonaws.com/id/ID, as `aws iam list-open-id-connect-providers` prints them."
  }
}

variable "service_account" {
  description = "That service account, as namespace:name; the one of infra/kubernetes is called vidtok."
  type        = string
  default     = "default:vidtok"
  validation {
    condition     = can(regex("^[a-z0-9-]+:[a-z0-9.-]+$", var.service_account))
    error_message = "A namespace, a colon, and the service account's name."
  }
}

variable "ray_cluster_name" {
  description = "`cluster_name` in ray_cluster.yaml: machines with this name are all that a head may start, tag and end."
  type        = string
  default     = "vidtok"
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that the bucket is encrypted with; null: S3's own keys."
  type        = string
  default     = null
}

variable "input_kms_key_arn" {
  description = "ARN of the KMS key that the input bucket is encrypted with; null: S3's own keys, or the same as kms_key_arn."
  type        = string
  default     = null
}

variable "days_until_old_versions_go" {
  description = "For so many days an object that was removed or overwritten can be brought back."
  type        = number
  default     = 30
}
