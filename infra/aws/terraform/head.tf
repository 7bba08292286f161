# The head of `ray up`: what the writer may, and the calls to EC2 that Ray's autoscaler makes there, on its own cluster's
# machines alone. Ray tags each with the cluster's name as it starts it.

locals {
  machines    = "arn:${data.aws_partition.current.partition}:ec2:*:*:instance/*"
  cluster_tag = "ray-cluster-name"
}

data "aws_iam_policy_document" "head" {
  source_policy_documents = [data.aws_iam_policy_document.writer.json]

  statement {
    sid       = "SeeMachines"
    actions   = ["ec2:DescribeInstances"]
    resources = ["*"] # EC2 knows nothing narrower for this call
  }
  statement {
    sid       = "StartMachines"
    actions   = ["ec2:RunInstances"]
    resources = [local.machines]
    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/${local.cluster_tag}"
      values   = [var.ray_cluster_name]
    }
  }
  statement {
    sid           = "StartThemFromAnything" # images, subnets, keys, disks ...; each start needs the statement above too
    actions       = ["ec2:RunInstances"]
    not_resources = [local.machines]
  }
  statement {
    sid       = "TagMachinesAsTheyStart"
    actions   = ["ec2:CreateTags"]
    resources = [local.machines]
    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["RunInstances"]
    }
  }
  statement {
    sid       = "TagAndEndMachines"
    actions   = ["ec2:CreateTags", "ec2:TerminateInstances"]
    resources = [local.machines]
    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/${local.cluster_tag}"
      values   = [var.ray_cluster_name]
    }
  }
  statement {
    sid       = "GiveMachinesTheWriter"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.datasets["writer"].arn]
    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ec2.amazonaws.com"]
    }
  }
}
